//! The driver contract on monoio, for hosts where io_uring is forbidden.
