"""``hwgen serve``: an HTTP server that speaks the OpenAI protocol."""
