"""One process that keeps torch, models and image features warm, and the client that other programs talk to it with.

`messages`, `client` and what they use are free of torch; `server` and `jobs` are what runs in the process.
"""
