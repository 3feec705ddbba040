"""Cache types: what attention reads of K and V that a server keeps in fewer bits, and the bytes of it.

Nothing is left out of such a cache: every step reads all of it. `by_name` lists the types that a config can name; to add one,
write a class of `CacheType` and a line there.
"""
