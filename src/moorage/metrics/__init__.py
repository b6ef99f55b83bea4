"""What happens, counted: each worker for itself, and one page for all of them.

    a request, a storage action ─► recorder.py   plain numbers of this process; a microsecond each
                                       │ every second, and at the end
                                       ▼
                                   board.py      memory that all processes share; the master adds up the dead
                                       │ when somebody asks
                                       ▼
                                   exposition.py the page that Prometheus reads, made in worker 0

`table.py` declares every metric.  Nobody imports this room unless `http.debug.addr` is set, and exposition.py, the
one user of prometheus_client, only where `http.debug.prometheus.enabled` is.

Why not prometheus_client's own mode for several processes: the four metrics of the reference take 8 to 13 us for a
request there (locks, and writes to mapped files) and 1.3 us here, with ours included; its files need a directory
that can be written to, and every process that ever ran leaves some.
"""
