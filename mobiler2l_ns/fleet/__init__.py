"""Many captures: what ``mobiler2l-fleet`` runs.

A fleet file (``spec``) becomes runs (``plan``), each a folder with what is to be done (``job``) and how far it is
(``state``). ``run_one`` does one of them by nerfstudio's and this package's commands, as processes of their own. An
engine (``engines``: Ray, or Slurm by submitit) says where and when, the driver (``drive``) hands the runs over and
waits. ``results`` collects what came of a run, ``table`` and ``page`` show all of them.
"""
