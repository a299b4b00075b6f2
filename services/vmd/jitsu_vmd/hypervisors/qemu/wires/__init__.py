"""The world of QEMU processes: processes, sockets and files; decides nothing."""
