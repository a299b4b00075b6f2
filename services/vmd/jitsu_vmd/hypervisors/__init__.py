"""One file per hypervisor; each loads its library only when it is asked for."""
