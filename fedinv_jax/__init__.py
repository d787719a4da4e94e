"""Privacy auditing of federated recommender systems by gradient inversion."""

__version__ = '0.1.0'
