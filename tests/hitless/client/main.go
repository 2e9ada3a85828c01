// The load of the hitless experiment: quic-go clients of every habit, each of which notices when it loses something.
//
// A worker goroutine owns one connection at a time and does one kind of work on it until the time is over. It tells apart
//   - a request that failed (an error or a short body), from one that the server did not start (GOAWAY, REQUEST_REJECTED)
//     and that is sent again on a new connection, as RFC 9114 section 5.2 has it;
//   - a connection that was lost (a close we did not ask for, or silence), from one that moved (closed with H3_NO_ERROR
//     while nothing was in flight) and from one that was reset (a stateless reset that verified: its process died).
//
// Output: one JSON object per line, with wall clock times in seconds: samples (latencies), losses and resets with the time
// in which they happened, so that whoever knows what was done to the server can judge them; the last line is the summary.
// It ends at the latest after -seconds, and in good order at SIGTERM.
package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"
)

var (
	addr     = flag.String("addr", "127.0.0.1:4433", "where the node listens")
	sni      = flag.String("sni", "localhost", "server name")
	big      = flag.String("big", "/big", "path of the file that downloads take")
	bigBytes = flag.Int64("big-bytes", 0, "its size")
	small    = flag.String("small", "/small", "path of the file that short requests take")
	upload   = flag.String("upload", "/upload", "path that takes uploads")
	events   = flag.Int("events", 80, "events of /proxied/events")
	seconds  = flag.Float64("seconds", 10, "how long")
	seed     = flag.Int64("seed", 1, "seed of all dice")
	timeout  = flag.Duration("timeout", 8*time.Second, "a request or handshake that takes longer has failed")
	kinds    = flag.String("work", "download=4,short=8,fresh=4,split=4,idle=8,rebind=4,migrate=4,mux=8", "how many of each kind")
)

type tally struct {
	Handshakes       int            `json:"handshakes"`
	HandshakesFailed int            `json:"handshakes_failed"`
	Requests         int            `json:"requests"`
	RequestsFailed   int            `json:"requests_failed"`
	Retried          int            `json:"retried"`
	Lost             int            `json:"connections_lost"`
	Moved            int            `json:"connections_moved"`
	Reset            int            `json:"connections_reset"`
	Migrations       int            `json:"migrations"`
	Cut              int            `json:"requests_cut"` // in flight when a reset came; a GET was sent again
	Errors           map[string]int `json:"errors,omitempty"`
}

var (
	mu      sync.Mutex
	tallies = map[string]*tally{}
	out     = bufio.NewWriter(os.Stdout)
	start   = time.Now()
	over    atomic.Bool
)

func at(t time.Time) float64 { return float64(t.UnixMicro()) / 1e6 }

func emit(v map[string]any) {
	mu.Lock()
	defer mu.Unlock()
	json.NewEncoder(out).Encode(v)
}

func count(kind string, f func(*tally)) {
	mu.Lock()
	defer mu.Unlock()
	t := tallies[kind]
	if t == nil {
		t = &tally{Errors: map[string]int{}}
		tallies[kind] = t
	}
	f(t)
}

func sample(kind string, took time.Duration) {
	emit(map[string]any{"sample": kind, "at_s": at(time.Now()), "ms": float64(took.Microseconds()) / 1e3})
}

// loss reports something that is gone. `began` is when we last knew it was well; a request that took its connection
// along, which is reported by itself, is not `alone`; `unanswered`: nothing on this connection was ever answered.
func (c *client) loss(what string, began time.Time, alone bool, err error) {
	emit(map[string]any{
		"loss": what, "kind": c.kind, "began_s": at(began), "at_s": at(time.Now()), "migrated": c.migrations > 0 || c.migrated,
		"alone": alone, "unanswered": !c.dialed.IsZero(), "error": short(err),
	})
}

// ---- sockets with habits ------------------------------------------------------------------------------------------

// habit is a net.PacketConn that can change its local port (a NAT that rebinds) or hold back its second datagram.
type habit struct {
	mu     sync.Mutex
	inner  *net.UDPConn
	closed bool
	sent   int
	hold   time.Duration
}

func newHabit(hold time.Duration) (*habit, error) {
	c, err := net.ListenUDP("udp", nil)
	return &habit{inner: c, hold: hold}, err
}

func (h *habit) current() *net.UDPConn {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.inner
}

func (h *habit) rebind() {
	c, err := net.ListenUDP("udp", nil)
	if err != nil {
		return
	}
	h.mu.Lock()
	old := h.inner
	h.inner = c
	h.mu.Unlock()
	old.Close()
}

func (h *habit) ReadFrom(b []byte) (int, net.Addr, error) {
	for {
		c := h.current()
		n, a, err := c.ReadFrom(b)
		if err == nil || c == h.current() {
			return n, a, err
		}
	}
}

func (h *habit) WriteTo(b []byte, a net.Addr) (int, error) {
	h.mu.Lock()
	h.sent++
	second := h.sent == 2 && h.hold > 0
	h.mu.Unlock()
	if second {
		held := append([]byte(nil), b...)
		time.AfterFunc(h.hold, func() { h.current().WriteTo(held, a) })
		return len(b), nil
	}
	n, err := h.current().WriteTo(b, a)
	if err != nil {
		n, err = h.current().WriteTo(b, a)
	}
	return n, err
}

func (h *habit) Close() error                       { return h.current().Close() }
func (h *habit) LocalAddr() net.Addr                { return h.current().LocalAddr() }
func (h *habit) SetDeadline(t time.Time) error      { return h.current().SetDeadline(t) }
func (h *habit) SetReadDeadline(t time.Time) error  { return h.current().SetReadDeadline(t) }
func (h *habit) SetWriteDeadline(t time.Time) error { return h.current().SetWriteDeadline(t) }

// ---- connections ----------------------------------------------------------------------------------------------------

type client struct {
	kind       string
	dice       *rand.Rand
	socket     *habit
	transport  *quic.Transport
	shared     bool
	conn       *quic.Conn
	h3         *http3.ClientConn
	migrations int
	migrated   bool      // the last connection had
	well       time.Time // when the connection last did what it should
	dialed     time.Time // when the dial of a connection began that has not answered anything yet
	broken     time.Time // when we noticed that a reset took the last connection
}

func (c *client) connect() error {
	if c.transport == nil {
		hold := time.Duration(0)
		if c.kind == "split" {
			hold = time.Duration(20+c.dice.Intn(180)) * time.Millisecond
		}
		socket, err := newHabit(hold)
		if err != nil {
			return err
		}
		c.socket = socket
		if c.kind == "rebind" || c.kind == "split" {
			c.transport = &quic.Transport{Conn: socket}
		} else {
			c.transport = &quic.Transport{Conn: socket.inner}
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), *timeout)
	defer cancel()
	target, err := net.ResolveUDPAddr("udp", *addr)
	if err != nil {
		return err
	}
	tc := &tls.Config{
		ServerName: *sni, NextProtos: []string{"h3"}, InsecureSkipVerify: true,
		CurvePreferences: []tls.CurveID{tls.X25519MLKEM768, tls.X25519},
	}
	qc := &quic.Config{MaxIdleTimeout: 20 * time.Second, HandshakeIdleTimeout: *timeout, KeepAlivePeriod: 4 * time.Second}
	began := time.Now()
	c.dialed = began
	conn, err := c.transport.Dial(ctx, target, tc, qc)
	if err != nil {
		count(c.kind, func(t *tally) { t.HandshakesFailed++; t.Errors["handshake: "+short(err)]++ })
		c.loss("handshake", began, true, err)
		c.drop()
		return err
	}
	count(c.kind, func(t *tally) { t.Handshakes++ })
	c.migrated = false
	c.conn, c.well = conn, time.Now()
	c.h3 = (&http3.Transport{DisableCompression: true}).NewClientConn(conn)
	return nil
}

func (c *client) drop() {
	if c.conn != nil {
		c.conn.CloseWithError(0x100, "")
	}
	if c.transport != nil && !c.shared {
		c.transport.Close()
		c.socket.Close()
		c.transport = nil
	}
	c.migrated = c.migrations > 0
	c.conn, c.h3, c.migrations = nil, nil, 0
}

func short(err error) string {
	s := err.Error()
	if len(s) > 90 {
		s = s[:90]
	}
	return s
}

// notStarted: the server says that it did not begin with the request, or quic-go had closed the connection before it sent
// anything ("conn unusable").
func notStarted(err error) bool {
	var stream *http3.Error
	return strings.Contains(err.Error(), "conn unusable: Application error 0x100 (local)") || strings.Contains(err.Error(), "graceful shutdown") || (errors.As(err, &stream) && stream.ErrorCode == http3.ErrCodeRequestRejected)
}

// ended classifies the end of a connection, as seen with a request in flight or without.
func (c *client) ended(err error, inFlight bool) {
	var reset *quic.StatelessResetError
	var app *quic.ApplicationError
	switch {
	case errors.As(err, &reset):
		c.broken = time.Now()
		count(c.kind, func(t *tally) {
			t.Reset++
			if inFlight {
				t.Cut++
			}
		})
		emit(map[string]any{"reset": c.kind, "at_s": at(c.broken), "began_s": at(c.well)})
	case errors.As(err, &app) && app.ErrorCode == 0x100 && (!app.Remote || !inFlight):
		// Either side may end it after a GOAWAY. quic-go does so by itself when no stream is open, also in the moment in
		// which a request is about to open one: that request never left.
		count(c.kind, func(t *tally) { t.Moved++ })
	default:
		count(c.kind, func(t *tally) { t.Lost++; t.Errors["connection: "+short(err)]++ })
		c.loss("connection", c.well, true, err)
	}
	c.drop()
}

// get does one request and says whether the connection can go on. With upload > 0 it is a POST of that many bytes.
func (c *client) get(path string, want int64, pace time.Duration, upload int64) bool {
	for attempt := 0; ; attempt++ {
		if c.conn != nil && c.conn.Context().Err() != nil {
			c.ended(context.Cause(c.conn.Context()), false)
		}
		if c.conn == nil {
			if c.connect() != nil {
				return false
			}
		}
		began := time.Now()
		patience := *timeout
		if pace > 0 {
			patience *= 4 // it is slow on purpose, and slower on a busy machine
		}
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		method, body := http.MethodGet, (*slowBody)(nil)
		var reader io.Reader
		if upload > 0 {
			method, body = http.MethodPost, &slowBody{left: upload, pace: pace}
			reader = body
		}
		req, _ := http.NewRequestWithContext(ctx, method, "https://"+*sni+path, reader)
		if upload > 0 {
			req.ContentLength = upload
		}
		var n int64
		var status int
		var err error
		if c.kind == "websocket" {
			n, status, err = talk(c.h3, req, c.headers)
		} else {
			n, status, err = exchange(c.h3, req, pace, c.headers)
		}
		cancel()
		if err == nil && body != nil && atomic.LoadInt64(&body.left) != 0 {
			err = fmt.Errorf("answered %d bytes before the end of the upload", body.left)
		}
		switch {
		case err == nil && status == 200 && (want == 0 || n == want):
			count(c.kind, func(t *tally) { t.Requests++ })
			if pace == 0 {
				sample(c.kind, time.Since(began))
			}
			c.well = time.Now()
			return true
		case err != nil && c.h3 != nil && notStarted(err) && attempt < 3:
			count(c.kind, func(t *tally) { t.Retried++ })
			c.drop()
			continue
		}
		if err == nil {
			err = fmt.Errorf("status %d, %d bytes of %d", status, n, want)
		}
		if strings.Contains(err.Error(), "stateless reset") {
			<-c.conn.Context().Done() // the stream hears of it first
		}
		last, alone := c.well, true
		if cause := context.Cause(c.conn.Context()); cause != nil {
			var app *quic.ApplicationError
			own := errors.As(cause, &app) && !app.Remote
			before := c.broken
			alone = false
			c.ended(cause, true)
			if own && attempt < 3 {
				count(c.kind, func(t *tally) { t.Retried++ })
				continue
			}
			if c.broken != before && attempt < 3 {
				continue // its process died; a GET is sent again, and the loss is in connections_reset
			}
		}
		count(c.kind, func(t *tally) { t.RequestsFailed++; t.Errors["request: "+short(err)]++ })
		c.loss("request", last, alone, err)
		c.drop()
		return false
	}
}

// headers: the head of an answer is there. What a connection was before it, it is now.
func (c *client) headers() {
	now := time.Now()
	if strings.HasSuffix(c.kind, "upload") {
		c.broken = time.Time{} // its answer comes when all of it is there
	} else if !c.broken.IsZero() {
		emit(map[string]any{"back": c.kind, "at_s": at(now), "ms": float64(now.Sub(c.broken).Microseconds()) / 1e3})
		c.broken = time.Time{}
	} else if !c.dialed.IsZero() && c.kind != "split" && !strings.HasSuffix(c.kind, "upload") {
		emit(map[string]any{"connect": c.kind, "at_s": at(now), "ms": float64(now.Sub(c.dialed).Microseconds()) / 1e3})
	}
	c.dialed = time.Time{}
	c.well = now
}

// slowBody gives its bytes piece by piece.
type slowBody struct {
	left int64
	pace time.Duration
}

func (b *slowBody) Read(p []byte) (int, error) {
	left := atomic.LoadInt64(&b.left)
	if left == 0 {
		return 0, io.EOF
	}
	time.Sleep(b.pace)
	n := min(left, int64(len(p)), 16<<10)
	clear(p[:n])
	atomic.AddInt64(&b.left, -n)
	return int(n), nil
}

func exchange(h3 *http3.ClientConn, req *http.Request, pace time.Duration, headers func()) (int64, int, error) {
	rsp, err := h3.RoundTrip(req)
	if err != nil {
		return 0, 0, err
	}
	defer rsp.Body.Close()
	headers()
	if pace == 0 || req.Body != nil {
		n, err := io.Copy(io.Discard, rsp.Body)
		return n, rsp.StatusCode, err
	}
	var total int64
	buf := make([]byte, 64<<10)
	for {
		n, err := rsp.Body.Read(buf)
		total += int64(n)
		if err == io.EOF {
			return total, rsp.StatusCode, nil
		}
		if err != nil {
			return total, rsp.StatusCode, err
		}
		time.Sleep(pace)
	}
}

const (
	said      = "still there?" // what a WebSocket says, and how often
	saidTimes = 40
)

// talk opens a WebSocket by an extended CONNECT (RFC 9220), says something ten times a second, and wants it back.
func talk(h3 *http3.ClientConn, req *http.Request, headers func()) (int64, int, error) {
	str, err := h3.OpenRequestStream(req.Context())
	if err != nil {
		return 0, 0, err
	}
	deadline, _ := req.Context().Deadline()
	str.SetDeadline(deadline)
	defer str.CancelRead(0x10c)
	req.Method, req.Proto = http.MethodConnect, "websocket"
	req.Header.Set("sec-websocket-version", "13")
	if err := str.SendRequestHeader(req); err != nil {
		return 0, 0, err
	}
	rsp, err := str.ReadResponse()
	if err != nil {
		return 0, 0, err
	}
	headers()
	if rsp.StatusCode != 200 {
		return 0, rsp.StatusCode, nil
	}
	mask := func(first byte, data string) []byte {
		frame := []byte{first, 0x80 | byte(len(data)), 1, 2, 3, 4}
		for i := 0; i < len(data); i++ {
			frame = append(frame, data[i]^frame[2+i&3])
		}
		return frame
	}
	var total int64
	back := make([]byte, 2+len(said))
	for i := 0; i < saidTimes; i++ {
		if _, err := str.Write(mask(0x81, said)); err != nil {
			return total, 200, err
		}
		n, err := io.ReadFull(str, back)
		total += int64(n)
		if err != nil {
			return total, 200, err
		}
		if string(back[2:]) != said {
			return total, 200, fmt.Errorf("another message came back")
		}
		time.Sleep(100 * time.Millisecond)
	}
	str.Write(mask(0x88, ""))
	_, err = io.ReadFull(str, back[:2])
	str.Close()
	return total, 200, err
}

// ---- kinds of work ----------------------------------------------------------------------------------------------------

func work(c *client) {
	lastHabit := time.Now()
	for !over.Load() {
		switch c.kind {
		case "download":
			c.get(*big, *bigBytes, time.Duration(20+c.dice.Intn(60))*time.Millisecond, 0)
		case "upload":
			size := int64(200<<10 + c.dice.Intn(500<<10))
			c.get(*upload, 0, time.Duration(20+c.dice.Intn(40))*time.Millisecond, size)
			pause(c, 50, 200)
		case "proxied-download":
			c.get("/proxied/big", *bigBytes, time.Duration(20+c.dice.Intn(60))*time.Millisecond, 0)
		case "proxied-upload":
			size := int64(200<<10 + c.dice.Intn(500<<10))
			c.get("/proxied/upload", 0, time.Duration(20+c.dice.Intn(40))*time.Millisecond, size)
			pause(c, 50, 200)
		case "events":
			c.get("/proxied/events", int64(*events*len("data: 000000\n\n")), time.Millisecond, 0)
			pause(c, 50, 200)
		case "websocket":
			c.get("/proxied/echo", int64(saidTimes*(2+len(said))), time.Millisecond, 0)
			pause(c, 50, 200)
		case "fresh", "split":
			c.get(*small, 0, 0, 0)
			c.drop()
			pause(c, 100, 300)
		case "idle":
			c.get(*small, 0, 0, 0)
			pause(c, 3000, 9000)
		case "rebind":
			c.get(*small, 0, 0, 0)
			if c.socket != nil && time.Since(lastHabit) > time.Second {
				c.socket.rebind()
				lastHabit = time.Now()
			}
			pause(c, 50, 200)
		case "migrate":
			c.get(*small, 0, 0, 0)
			if c.conn != nil && time.Since(lastHabit) > time.Second {
				if c.migrations == 3 {
					c.drop()
				} else {
					migrate(c)
				}
				lastHabit = time.Now()
			}
			pause(c, 50, 200)
		case "mux":
			c.get(*small, 0, 0, 0)
			pause(c, 300, 900)
		default: // short
			c.get(*small, 0, 0, 0)
			pause(c, 20, 100)
		}
	}
	c.drop()
}

// migrate moves to a new socket. quic-go keeps an id of the server for each path it ever had, so with the usual four ids
// (nginx's as ours) a connection can do it three times; then it makes place for a new one.
func migrate(c *client) {
	socket, err := net.ListenUDP("udp", nil)
	if err != nil {
		return
	}
	transport := &quic.Transport{Conn: socket}
	path, err := c.conn.AddPath(transport)
	if err == nil {
		ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
		err = path.Probe(ctx)
		cancel()
	}
	if err == nil {
		err = path.Switch()
	}
	if err == nil {
		count(c.kind, func(t *tally) { t.Migrations++ })
		c.migrations++
	} else if c.conn.Context().Err() == nil {
		count(c.kind, func(t *tally) { t.Errors["migration: "+short(err)]++ })
	}
}

func pause(c *client, low, high int) {
	time.Sleep(time.Duration(low+c.dice.Intn(high-low)) * time.Millisecond)
}

func main() {
	flag.Parse()
	time.AfterFunc(time.Duration(*seconds*float64(time.Second)), func() { over.Store(true) })
	told := make(chan os.Signal, 1)
	signal.Notify(told, syscall.SIGTERM)
	go func() { <-told; over.Store(true) }()
	var all sync.WaitGroup
	number := int64(0)
	for _, item := range strings.Split(*kinds, ",") {
		kind, n := item, 1
		if at := strings.IndexByte(item, '='); at >= 0 {
			kind = item[:at]
			fmt.Sscanf(item[at+1:], "%d", &n)
		}
		var shared *quic.Transport
		for i := 0; i < n; i++ {
			number++
			if kind == "mux" && i%20 == 0 { // so many connections on each socket
				socket, err := net.ListenUDP("udp", nil)
				if err != nil {
					panic(err)
				}
				shared = &quic.Transport{Conn: socket}
			}
			c := &client{kind: kind, dice: rand.New(rand.NewSource(*seed*1000 + number)), transport: shared, shared: shared != nil}
			all.Add(1)
			go func() {
				defer all.Done()
				time.Sleep(time.Duration(c.dice.Intn(3000)) * time.Millisecond)
				work(c)
			}()
		}
	}
	all.Wait()
	json.NewEncoder(out).Encode(map[string]any{"summary": tallies})
	out.Flush()
}
