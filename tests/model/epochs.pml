/* Key epochs against restarts: no worker ever receives something sealed with a key that it cannot open.
 *
 * What is modelled: the supervisor's rotation (supervisor/node/node.py): make a key, persist it, give it to every worker,
 * wait until each one that lives has acknowledged it, persist that it seals, tell the workers to seal with it. At any
 * moment a worker may crash and be replaced (it gets the table as persisted), and the supervisor may crash and be
 * replaced (it reads the table as persisted). Workers seal tickets at any time; a ticket may come back to any worker.
 *
 * What is claimed: whatever any worker sealed, any other worker that serves can open.
 * Compile with -DSEAL_AT_ONCE (no waiting for acknowledgements) or -DPERSIST_LATE (tell first, write later) to see it fail.
 * What is left out: expiry of old keys (arithmetic on lifetimes, tested in tests/unit/velocity_edge/keys/test_rotation.py).
 */

#define WORKERS 2
#define KEYS 3          /* epochs 0, 1, 2: two rotations */

byte disk_newest = 0;   /* keys 0..disk_newest are on disk */
byte disk_seal = 0;
byte newest[WORKERS];   /* keys 0..newest[w] are held by worker w */
byte seal[WORKERS];
bool serving[WORKERS];
byte crashes = 0;

#define EVERYONE_HAS(k) ((!serving[0] || newest[0] >= k) && (!serving[1] || newest[1] >= k))

proctype Supervisor()
{
	byte table_newest, table_seal, w;
start:
	atomic { table_newest = disk_newest; table_seal = disk_seal }   /* a successor knows only the disk */
	do
	:: table_newest == table_seal && table_newest < KEYS - 1 ->
		table_newest++;
#ifndef PERSIST_LATE
		disk_newest = table_newest;
#endif
		w = 0
	:: table_newest > table_seal ->         /* distribute, wait, then seal */
		w = 0;
		do
		:: w < WORKERS ->
			if
			:: atomic { serving[w] && newest[w] < table_newest ->
				newest[w] = table_newest
#ifdef SEAL_AT_ONCE
				; seal[w] = table_newest
#endif
			   }
			:: else
			fi;
			w++
		:: else -> break
		od;
#ifndef SEAL_AT_ONCE
		EVERYONE_HAS(table_newest);
#endif
		table_seal = table_newest;
#ifndef PERSIST_LATE
		disk_seal = table_seal;
#endif
		w = 0;
		do
		:: w < WORKERS ->
			if
			:: atomic { serving[w] && newest[w] >= table_seal -> seal[w] = table_seal }
			:: else
			fi;
			w++
		:: else -> break
		od;
#ifdef PERSIST_LATE
		disk_newest = table_newest;
		disk_seal = table_seal
#endif
	:: crashes < 2 -> crashes++; goto start
	:: table_newest == KEYS - 1 && table_seal == KEYS - 1 -> break
	od
}

proctype Worker(byte me)
{
	/* starts with the table as it is on disk: it is not `serving` before it holds it */
	atomic { newest[me] = disk_newest; seal[me] = disk_seal; serving[me] = true };
end:	do
	:: atomic { serving[me] -> assert(EVERYONE_HAS(seal[me])) }          /* seal a ticket; it comes back anywhere */
	:: atomic { crashes < 2 -> crashes++; serving[me] = false };
	   atomic { newest[me] = disk_newest; seal[me] = disk_seal; serving[me] = true }
	od
}

init { atomic { run Supervisor(); run Worker(0); run Worker(1) } }
