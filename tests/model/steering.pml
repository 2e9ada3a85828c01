/* Hand-over of new connections: the accept switch against the pin map against a worker that leaves.
 *
 * What is modelled: one client whose ClientHello takes two datagrams (I1, I2: same DCID, same SCID, same address), sent
 * any time apart, each possibly lost once and then sent again; the socket selection program (bpf/reuseport.c), whose
 * steps interleave with the supervisor's (it reads the accept table, later it writes the pin, later it enqueues); the
 * supervisor, which moves "accepting" from worker 0 to worker 1, drains worker 0 and lets it leave; it may be killed
 * between any two of these steps, and its successor knows what was written before them (state.json), not which were done.
 *
 * What is claimed (checked by spin over all interleavings):
 *   together   both datagrams of a completed handshake were taken by one worker
 *   nobody     no worker leaves while it has half of a handshake, or with an unread datagram in its socket
 *   done       the handshake completes (weak fairness, the client sends again)
 *
 * What is left out: retransmission limits, the LRU eviction of pins (65,536 entries; an evicted pin is the same as no
 * pin), hash collisions of the pin key, GRO.
 *
 * Compile with -DNO_PIN (no pin map), -DNO_QUARANTINE (a worker leaves as soon as it has no connection) or
 * -DTRUST_STEERING (a successor takes the accept table for what it should be) to see the claims fail: these are the
 * naive versions.
 */

#define NONE 255
#define HALF(w) ((has1 == w && has2 == NONE) || (has2 == w && has1 == NONE))

mtype = { I1, I2 };

byte accepting = 0;             /* the accept table, as one cell */
byte pin = NONE;                /* the pin of this client */
bool known0 = true;             /* worker 0 in the worker table: false once it is forgotten */
bool asked_to_leave = false;
bool left = false;              /* worker 0 exited */

chan socket0 = [4] of { mtype };
chan socket1 = [4] of { mtype };

byte has1 = NONE;               /* the worker that took I1, and I2 */
byte has2 = NONE;
bool done = false;
byte in_selection = 0;          /* datagrams between the table and a socket */

#define PIN_USABLE (pin == 1 || (pin == 0 && known0))

/* bpf/reuseport.c for a DCID that does not decode. Each statement is atomic, as one map operation is; the whole is not. */
proctype Datagram(mtype what)
{
	byte to = NONE;
	bool dropped = false;
again:
	in_selection++;
#ifndef NO_PIN
	if
	:: PIN_USABLE -> to = pin; goto enqueue
	:: else
	fi;
#endif
	to = accepting;
#ifndef NO_PIN
	atomic {        /* whoever pins first decides for both datagrams */
		if
		:: PIN_USABLE -> to = pin
		:: else -> pin = to
		fi
	}
#endif
enqueue:
	atomic {
		if
		:: to == 0 -> assert(!left); socket0!what           /* nobody, the other half */
		:: to == 1 -> socket1!what
		:: !dropped -> dropped = true           /* the network or a full socket may lose it, once */
		fi;
		in_selection--
	}
	/* The client sends again what was not taken; the worker ignores what it has. */
	if
	:: what == I1 && has1 != NONE
	:: what == I2 && has2 != NONE
	:: timeout -> goto again
	fi
}

inline take(me)
{
	if
	:: got == I1 && has1 == NONE -> has1 = me
	:: got == I2 && has2 == NONE -> has2 = me
	:: else
	fi;
	if
	:: has1 != NONE && has2 != NONE -> assert(has1 == has2); done = true    /* together */
	:: else
	fi
}

#ifdef NO_QUARANTINE
#define MAY_LEAVE (asked_to_leave && !HALF(0))
#else
/* Its accept entry is gone, nobody is between table and socket any more (a grace period later), its socket is empty,
 * and it holds no half of a handshake. */
#define MAY_LEAVE (asked_to_leave && in_selection == 0 && empty(socket0) && !HALF(0))
#endif

proctype Worker0()
{
	mtype got;
	do
	:: atomic { socket0?got -> take(0) }
	:: atomic { MAY_LEAVE -> left = true; known0 = false; assert(empty(socket0)); break }   /* nobody */
	od
}

proctype Worker1()
{
	mtype got;
end:	do
	:: atomic { socket1?got -> take(1) }
	od
}

proctype Supervisor()
{
	/* state.json says that worker 0 is to leave: written before anything is done about it */
	if
	:: goto successor       /* killed here */
	:: accepting = 1        /* one byte store: the flip */
	fi;
	if
	:: goto successor       /* or here */
	:: asked_to_leave = true; goto over
	fi;
successor:
#ifndef TRUST_STEERING
	accepting = 1;
#endif
	asked_to_leave = true;
over:
	skip
}

init {
	atomic {
		run Worker0();
		run Worker1();
		run Datagram(I1);
		run Datagram(I2);
		run Supervisor()
	}
}

ltl completes { <> done }
