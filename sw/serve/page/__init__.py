"""The page at ``/`` of a server: files for the browser, and what they ask for beside the OpenAI protocol."""
