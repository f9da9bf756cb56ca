"""Network to raw store: published files over `requests`, covers and titles of items over `aiohttp` (docs/download.md).

`download.download` does what `ninerec download` asks for; a platform of one's own is a resolver (resolvers/).
"""
