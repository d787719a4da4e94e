"""Settings of a process that libraries read when they load: import it before them."""

import os

# Exact attacks run as many blocks side by side as there are cores, each with one thread of BLAS;
# that is read when NumPy loads.
os.environ.setdefault('OPENBLAS_NUM_THREADS', '1')
# XLA's fusion emitters for CPUs take twice the time to compile, and no less to run.
os.environ['XLA_FLAGS'] = '--xla_cpu_use_fusion_emitters=false ' + os.environ.get('XLA_FLAGS', '')
