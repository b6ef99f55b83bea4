"""Quotas: limits of bytes and tags for the repositories that a pattern covers (`quota` in the settings).

Which bytes count.  The usage of a pattern is the sum over its repositories of the sizes of the distinct digests
that each of them links, layers and manifests.  So a blob counts once in a repository, however many of its images
have it, and in each repository that it was mounted into, although its bytes are stored once.  An unfinished
upload counts with the bytes received so far.  Content that was deleted and can be restored does not count, nor
do the small objects (links, tags) that make up a repository.  Tags count while they lead to a manifest.

How usage is known.  There is no shared counter.  A *base* is the result of a walk over the repositories
(`count.py`); processes append *facts* to it, each a change of one thing: "team-a/app links sha256:... of 123
bytes now".  A process knows its own facts at once, writes them every `FLUSH_S` as one small object, and reads
those of the others as often, while requests come (`usage.py`, `facts.py`).  So a check compares numbers in
memory.

How far the limit can be exceeded.  One process never exceeds it: what its running requests announce is held.
Other processes learn of a change after two flush intervals at most (one until it is written, one until it is
read).  So n processes together may exceed a limit by what n - 1 of them accept within `2 * FLUSH_S`, including
the rest of the uploads that they let begin in that time.  A process that is killed takes the facts of its last
`FLUSH_S` with it; the next count finds what they were about.  Until the first count of a pattern has ended,
nothing is refused.

Usage decides about pushes, never about data: a wrong number refuses or admits a push, and the next count mends
it.

Read first: `limits.py`, `usage.py`, `registry.py`.  Above: `wiring/`.  Below: `registry/`.
"""
