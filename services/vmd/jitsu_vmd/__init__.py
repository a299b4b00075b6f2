"""The VM daemon of Jitsu: it summons virtual machines."""
