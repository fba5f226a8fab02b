"""What a client is told when a request is refused or an answer fails."""

from __future__ import annotations

from typing import Any

from ...errors import HwgenError

__all__ = ["ApiError"]


class ApiError(Exception):
    """A request that is refused: HTTP status and the error object of the protocol."""

    def __init__(
        self, status: int, message: str, *, code: str | None = None, param: str | None = None, headers: dict[str, str] | None = None
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.code, self.param = status, message, code, param
        self.headers = headers or {}

    def to_dict(self) -> dict[str, Any]:
        kinds = {401: "authentication_error", 404: "not_found_error", 429: "rate_limit_error"}
        kind = kinds.get(self.status, "server_error" if self.status >= 500 else "invalid_request_error")
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}

    @classmethod
    def refused(cls, param: str, reason: str, code: str = "invalid_value") -> ApiError:
        """Of a request whose ``param`` is at fault."""
        return cls(400, f"{param}: {reason}", code=code, param=param)

    @classmethod
    def of(cls, error: Exception) -> ApiError:
        """What the client is told of an error of the runtime, or of a defect of the server."""
        if isinstance(error, ApiError):
            return error
        if not isinstance(error, HwgenError):
            return cls(500, f"this answer failed: {type(error).__name__}: {error}", code="internal")
        if error.kind == "busy":
            waits = "shutting down" not in error.message
            return cls(
                429 if waits else 503, str(error), code="queue_full" if waits else "shutting_down", headers={"Retry-After": "1"}
            )
        if error.kind == "context":
            return cls(400, str(error), code="context_length_exceeded")
        if error.kind in ("usage", "tokenizer"):
            return cls(400, str(error), code=error.kind)
        return cls(501 if error.kind == "tool" else 500, str(error), code=error.kind)
