"""Images in tar files, for sites without a network: OCI layouts, written and read as registries are.

Read `contents.py` (what a bundle holds), `export.py` with `plan.py` and `writer.py`, then `importer.py` with
`reader.py`.  `archive.py` and `volumes.py` are the file itself; `docker_archive.py` and `imagelist.py` read the
files of other programs.
"""
