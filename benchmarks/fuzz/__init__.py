"""Small random clients of many kinds: is an exact attack's certificate ever wrong?"""
