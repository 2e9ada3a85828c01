// The upstream of the hitless experiment: what clients ask for through the server under test.
//
//	/proxied/big     the bytes of a file
//	/proxied/upload  reads the whole body, then answers with 200
//	/proxied/events  server-sent events: `count` of them, one each 50 ms, numbered
//	/proxied/echo    a WebSocket that sends every frame back (RFC 6455)
//
// It listens on a unix socket and on an address, so that every subject can reach it as its documentation advises.
package main

import (
	"bufio"
	"crypto/sha1"
	"encoding/base64"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"time"
)

var (
	address = flag.String("address", "127.0.0.1:8090", "where it listens")
	socket  = flag.String("socket", "", "and a unix socket")
	big     = flag.String("big", "", "the file behind /proxied/big")
	count   = flag.Int("count", 80, "events of a stream")
)

func events(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("content-type", "text/event-stream")
	for i := 0; i < *count; i++ {
		fmt.Fprintf(w, "data: %06d\n\n", i)
		w.(http.Flusher).Flush()
		time.Sleep(50 * time.Millisecond)
	}
}

func upload(w http.ResponseWriter, r *http.Request) {
	n, err := io.Copy(io.Discard, r.Body)
	if err != nil || (r.ContentLength >= 0 && n != r.ContentLength) {
		http.Error(w, "incomplete", http.StatusBadRequest)
		return
	}
	io.WriteString(w, "all of it")
}

// frame reads one frame of a client and returns its first byte and its unmasked payload (at most 64 KiB).
func frame(r *bufio.Reader) (byte, []byte, error) {
	var head [2]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return 0, nil, err
	}
	n := int(head[1] & 127)
	if n == 126 {
		var more [2]byte
		if _, err := io.ReadFull(r, more[:]); err != nil {
			return 0, nil, err
		}
		n = int(more[0])<<8 | int(more[1])
	} else if n == 127 || head[1]&128 == 0 {
		return 0, nil, fmt.Errorf("a frame that is too long, or not masked")
	}
	data := make([]byte, 4+n)
	if _, err := io.ReadFull(r, data); err != nil {
		return 0, nil, err
	}
	for i := range data[4:] {
		data[4+i] ^= data[i&3]
	}
	return head[0], data[4:], nil
}

func echo(w http.ResponseWriter, r *http.Request) {
	key := r.Header.Get("Sec-WebSocket-Key")
	if key == "" {
		http.Error(w, "no WebSocket", http.StatusBadRequest)
		return
	}
	conn, stream, err := w.(http.Hijacker).Hijack()
	if err != nil {
		return
	}
	defer conn.Close()
	sum := sha1.Sum([]byte(key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
	fmt.Fprintf(conn, "HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\n"+
		"sec-websocket-accept: %s\r\n\r\n", base64.StdEncoding.EncodeToString(sum[:]))
	for {
		first, data, err := frame(stream.Reader)
		if err != nil {
			return
		}
		reply := []byte{first, byte(len(data))}
		if len(data) > 125 {
			reply = []byte{first, 126, byte(len(data) >> 8), byte(len(data))}
		}
		if _, err := conn.Write(append(reply, data...)); err != nil || first&15 == 8 {
			return
		}
	}
}

func main() {
	flag.Parse()
	mux := http.NewServeMux()
	mux.HandleFunc("/proxied/big", func(w http.ResponseWriter, r *http.Request) { http.ServeFile(w, r, *big) })
	mux.HandleFunc("/proxied/upload", upload)
	mux.HandleFunc("/proxied/events", events)
	mux.HandleFunc("/proxied/echo", echo)
	if *socket != "" {
		os.Remove(*socket)
		unix, err := net.Listen("unix", *socket)
		if err != nil {
			panic(err)
		}
		os.Chmod(*socket, 0o777)
		go http.Serve(unix, mux)
	}
	panic(http.ListenAndServe(*address, mux))
}
