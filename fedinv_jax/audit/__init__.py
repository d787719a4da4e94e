"""The audit: a program that turns a config into rows and pages.

In the order of a run: config, settings, training, attackers, checks, plan, runner, executor,
scoring, threat_model, study, capture; workdir, distributed and progress are what they share. The
library does not import it.
"""
