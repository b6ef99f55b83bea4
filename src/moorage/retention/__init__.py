"""Retention: tags that the rules of the settings do not keep are deleted, each with its family.

    facts.py     what a repository has: tags, manifests, how they belong together, when they were used
    rules.py     which tags a rule selects, and which of them it keeps
    decide.py    facts and rules become decisions; pure
    families.py  which manifests belong together; pure
    run.py       decisions become deletions, each checked again directly before

Read first: `decide.py`, then `run.py`.

Above: `wiring/retention.py`.  Below: `registry/`.
"""
