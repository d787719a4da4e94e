"""The audit: a program that turns a config into rows and pages.

In the order of a run: main, config, defences (guarantees, channel), training, attackers, registry,
settings, checks, plan, threat_model, runner, compiling, executor, scoring, reporting; study and
capture are other ways to begin; workdir, distributed and progress are what they share. The library
does not import it.
"""
