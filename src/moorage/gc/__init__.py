"""Garbage collection of a registry that keeps serving: removes what nothing needs, beside pushes and pulls.

Read first: `run.py` (a run), `sweep.py` (removal), `mark.py` (what is needed), `registry/collection_gate.py` (what
requests do meanwhile), `markers.py`.  Below: `registry/`, `storage/`.


The safety argument

**Claim.**  A push that was acknowledged, and everything that a tag, an index or a subject needs, keeps its links
and bytes, with any number of nodes and collectors, which may be stopped or killed at any moment.

Notation.  A writer W writes its links durably (W1), then lists the state (W2), then reads the links and bytes that
it relies on (W3), then acknowledges.  A collector writes its list of doomed digests (C1), marks and reads
`rescued` (C2), lists its own markers (C3), and sends DELETE (C4), for what C2 has found dead.  Writes are durable,
and seen by every listing and read that begins later.

1. *A run that W has observed.*  Let C4 remove what W relies on.

   * W1 before C2 reads that place: the mark finds the link, and C4 does not remove it, nor what it needs.
   * W1 after that: C1 is before W2.  W2 sees the digest doomed, unless its list is gone by then; then W3 comes
     after all removals of that list were answered, and misses what was removed.  W is not acknowledged.

   Lists are removed only when all their removals were answered, or were never sent.  A list is replaced by writing
   the shorter one first: no listing shows a digest that is to be removed as not doomed.

2. *A run that W has not observed.*  W skips W2 and W3 only if it has two listings without any list or `running`,
   of which the second one is at most `RENEW_S` old, or younger than W1, and both show the same `ended`.  Then no
   run has ended between the two, and none was in progress at the second.  A run that begins after it waits longer
   than `RENEW_S` between `running` and its first look, so W1 is before that look: case 1, first line.  A run ends
   by writing `ended` first and, `RENEW_S` later, removing `running` and the older `ended`: a listing that is not
   atomic and misses the new `ended`, since it began before it was written, is too old to be used when `running`
   goes.  A run that has doomed nothing waits, too: a listing that misses both `ended` looks like one from before
   the first run, and would hide that one.

3. *Reliance before the link.*  A client that was answered 200 for a HEAD does not send the bytes.  The answer
   writes `rescued` for a condemned digest, and lists again.  `rescued` before C2 reads it: kept.  After: the
   request sees the digest doomed, and answers 404.  A 200 from before the digest was condemned is honoured for
   `wait`; after that the push fails with an error, and loses nothing that was acknowledged.

4. *Links.*  A layer link that is dead in one repository may name bytes that others need.  Its entry is `DIGEST
   NAME` and dooms the link only.  W3 reads the links as well as the bytes.  Revision links go first, parents
   before the manifests that they list, then layer links, then bytes, and no link of a round is withdrawn when its
   first one is gone.  So a crash at any moment leaves manifests that are whole, or gone.  A rescued manifest keeps
   all that it names, and so does one that is dead and was not condemned.

   *Rounds.*  More objects than fit into one round are removed in several, each with its own C1 to C4: first rounds
   of links, each of whole repositories, then rounds of bytes.  C2 of a round of links reads the repositories of
   the round only, and all of `rescued`.  That is enough: what needs a link is in its own repository, W3 reads no
   link of another one, and no round of links removes bytes.  So a dead manifest that stays keeps its links if
   its repository is in the round, and loses none if it is not; an index does not need the link that its manifest
   had elsewhere.  A repository with more links than fit has its revisions in one round, and layer links in those
   after it, which read it again.  C2 of a round of bytes reads everything.  Each dead link that was not removed,
   since it was rescued, not condemned or is removed later, keeps the bytes that it names, and a manifest all
   that it names.  A crash between two rounds leaves repositories that are done, others that are as they were,
   and bytes without links.

5. *Two collectors.*  Each one satisfies 1 to 4 by its own markers; W2 sees the lists of all.  The lease saves work
   only.  They share `rescued`, of which a run removes at its end only what is older than the grace time; and the
   markers of runs that ended without removing theirs, see 6.

6. *Dead, stopped and late collectors.*  A collector may die after C4 was sent, be stopped between C3 and C4
   (SIGSTOP), or get no answer: C4 may be carried out later.

   * Until then the digest has to stay doomed.  Another run removes a list of a dead one only `GUARD_S` +
     `QUARANTINE_S` after the list was written.  The kernel ends a collector that removes at most `GUARD_S` after
     it began to write the oldest list that exists then (`guard.py`), also one that was stopped, before it executes
     another instruction; `QUARANTINE_S` is for requests that are under way in the network and in the store.
   * Nothing is sent in C2, so the timer does not run in it, and it may take any time.  After it, the timer is set
     to `GUARD_S` - `LOOK_S`, and then the clock is read.  If it is within `LOOK_S` of C1, the timer ends within
     `GUARD_S` of C1.  Otherwise it is set anew, to `GUARD_S`, and then all lists are written once more under new
     numbers (C1').  A listing after C1' has to show `running` and all the old lists; only then these are removed.
     Names are not used twice, so what it shows has existed since C1: the digests were doomed from C1 to C1' by the
     old lists, and are by the new ones from C1' on, of which the quarantine counts.  C1 of case 1 remains the
     first one.  If another run has removed an old list before that listing, the digest may have been free, and
     nothing is sent.  If it does so later, the new list was there before.  A full disk at C1' ends the run.
   * C3: a collector whose `running` or lists were removed by another sends nothing.  `running` of another run is
     removed by the one that holds the lease.  If C3 came before that removal, C1 did, too: while the list exists,
     every listing is one of a run in progress, so 2 does not apply, and 1 does.
   * A run has a token of its own, also one that continues another.  So a stopped collector never takes the markers
     of its successor for its own.
   * A removal that failed, was cancelled, was sent again (`Driver.resent`) or took long in a remote store (its
     library may have sent it twice) keeps its list, which is quarantined in the same way.

7. *Stores.*  Directories, Google and Azure remove bytes on the condition that they are those that C2 has seen
   (`Driver.removes_exactly`), so that even a removal which arrives after all quarantines leaves the bytes of a
   later push alone.  S3 has no such condition; there, and for links on every store, the argument rests on 1 to 6.

8. *Crash at any moment, full disk.*  Nothing live depends on a marker: without a list its digests are safe, with
   one they are absent until the next run has ended.  Lists that could not be written are not worked on.

**Assumptions.**

* A listing shows all objects whose write had ended before it began, and none whose removal had: a missing link is
  a layer removed under an image.  Stores whose listings are only eventually consistent are refused when a check
  at the beginning notices it (`preconditions.py`), which proves nothing for one that is late only at times.
* Monotonic clocks of nodes run at nearly the same speed (a twentieth), and count the time that a machine sleeps;
  that of a suspended virtual machine may not.  A collector in a virtual machine that is suspended between C3 and
  C4 and resumed after its quarantine can remove a link, and on S3 bytes, that were stored meanwhile.
* The clock of the store is that of all ages.  A run is refused if it differs by more than five minutes from that
  of the node, or is behind the end of the last run.  A step by less is within the quarantine.
* A store carries out a DELETE within `QUARANTINE_S` after its client is dead, or never.
* Every writer observes the markers: nodes publish the number of these rules (`registry/nodes.py`), and collections
  are refused beside another one.  CNCF Distribution does not: `preconditions.py` looks for its traces, and
  `foreignwriters` declares it.

The argument is tested by a model (`tests/gc/model/`), by pushes and crashes at every call of a run, and by stopped
processes (`tests/gc/`).
"""
