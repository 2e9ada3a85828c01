/* Epochs of connection IDs: whatever id a living connection holds decodes, however many rotations follow each other.
 *
 * What is modelled: the supervisor (supervisor/node/epochs.py, key_change.py) rotates twice, whenever it likes, and stops
 * decoding an epoch when every worker has said, since it seals with the present one, that no connection holds an id of
 * it. Workers take over what seals late, open and close connections at any time, and report at any time; a report is
 * read later than it was made. The supervisor may be killed: its successor knows the table, and no report.
 *
 * What is claimed: an epoch that a connection holds an id of is live, and three may be live at a time.
 * Compile with -DTWO_LIVE (only the epoch that seals and the one before it), -DOLD_COUNT (a count is believed that was
 * made before the worker took over the present epoch) or -DTRUST_SILENCE (who has not reported holds none) to see it
 * fail.
 * What is left out: packets of closed connections and of dead workers (a quarantine by the clock, simulated).
 */

#define WORKERS 2
#define EPOCHS 3
#define NOTHING 255
#define OLD 2                           /* epochs 0 and 1 are replaced one day; the last one never is */
#define AT(w, e) ((w) * OLD + (e))

byte sealing = 0;
bool live[EPOCHS];
byte seal[WORKERS];                     /* what the worker seals with: 0 at first */
bool held[WORKERS * OLD];               /* a connection of the worker holds an id of the epoch */
bool none[WORKERS * OLD];               /* its last report: nobody does */
byte sealed_then[WORKERS];              /* what it sealed with when it reported */
byte deaths = 0;

#define FINE(w, e) (!held[AT(w, e)] || live[e])
#define ALL_FINE (FINE(0, 0) && FINE(0, 1) && FINE(1, 0) && FINE(1, 1))

#ifdef OLD_COUNT
#define PRESENT(w) true
#else
#define PRESENT(w) (sealed_then[w] == sealing)
#endif
#ifdef TRUST_SILENCE
#define NONE(w, e) (sealed_then[w] == NOTHING || (PRESENT(w) && none[AT(w, e)]))
#else
#define NONE(w, e) (sealed_then[w] != NOTHING && PRESENT(w) && none[AT(w, e)])
#endif

proctype Worker(byte me)
{
	byte e;
end:	do
	:: seal[me] != sealing -> seal[me] = sealing                    /* the order is there: it may take its time */
	:: atomic { seal[me] < OLD -> held[AT(me, seal[me])] = true; assert(ALL_FINE) } /* a handshake */
	:: atomic { select(e : 0 .. 1); held[AT(me, e)] = false }       /* they leave, or retire their ids */
	:: atomic {                                                     /* a heartbeat */
		none[AT(me, 0)] = !held[AT(me, 0)];
		none[AT(me, 1)] = !held[AT(me, 1)];
		sealed_then[me] = seal[me]
	   }
	od
}

proctype Supervisor()
{
	byte e;
end:	do
	:: sealing < EPOCHS - 1 ->
		live[sealing + 1] = true;       /* packet programs and workers first, then it seals */
		sealing++;
#ifdef TWO_LIVE
		if
		:: sealing == 2 -> atomic { live[0] = false; assert(ALL_FINE) }
		:: else
		fi
#endif
	:: atomic {
		select(e : 0 .. 1);
		if
		:: e != sealing && live[e] && NONE(0, e) && NONE(1, e) -> live[e] = false; assert(ALL_FINE)
		:: else
		fi
	   }
	:: atomic { deaths < 1 -> deaths++; sealed_then[0] = NOTHING; sealed_then[1] = NOTHING }
	od
}

init {
	atomic {
		live[0] = true;
		sealed_then[0] = NOTHING;
		sealed_then[1] = NOTHING;
		run Supervisor();
		run Worker(0);
		run Worker(1)
	}
}

/* Must fail: three epochs are live at a time, so the claim above is about that, too. */
ltl never_three { [] !(live[0] && live[1] && live[2]) }
