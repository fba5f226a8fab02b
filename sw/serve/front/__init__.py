"""One endpoint before several boards, each with `hwgen serve` of its own."""
