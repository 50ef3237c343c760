"""The gateway's protocols without I/O: bytes and text in, typed messages out, and back.

One module for each route. `decode_server` and `encode_client` serve a client, `decode_client` and
`encode_server` a server. Decoding never fails in any other way than with a `ProtocolError`.
"""
