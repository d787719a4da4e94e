"""The audit: a program that turns a config into rows and report pages.

The modules in the order of a run: main, config, defences (guarantees, channel), training,
attackers, registry, settings, checks, plan, threat_model, runner, compiling, executor, scoring,
reporting. `study` and `capture` are the other entry points; all of them use workdir, distributed
and progress. The library does not import this package.
"""
