"""Solo5 unikernels as processes, each under a tender with a tap of its own; README.md has the life of one."""
