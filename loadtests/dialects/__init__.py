"""Pure wire formats: encode a chat, decode a stream. No sockets here."""
