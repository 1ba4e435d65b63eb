//! Ringdesk wire format v1: frames, messages, JSON form, WebSocket, slots. Sans-IO.
