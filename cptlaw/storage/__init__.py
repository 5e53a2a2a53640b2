"""Where a workdir lies: a POSIX path, or a place in a bucket (`gs://`, `s3://`).

docs/storage.md says what each promises.

The only room that knows of buckets:
  bucket.py    whole objects, created and replaced under a condition
  claims.py    who works on something, until it has ended: one object, changed by compare-and-swap alone
  tasks.py     a folder that one process at a time works on: on POSIX, and in a bucket
  versions.py  checkpoints in a bucket: whole or absent, and those of a process that has lost its claim never counted
  copies.py    a folder of a bucket on this machine's disk: fetched and published
"""
