"""Traces by OpenTelemetry, if OTEL_TRACES_EXPORTER is set; its libraries are imported only then.

    environment.py   the variables, checked without the libraries
    check.py         the start check, in the master
    setup.py         the SDK, set up in every worker
    spans.py         a span for each request, and within it one for each storage action

Configured by OpenTelemetry's standard variables only.  CNCF Distribution sends to localhost:4318 by default;
without the variable, Moorage sends nothing.

Source: docs/reference/configuration.md, section 15; the OpenTelemetry specification, "Environment Variables".
"""
