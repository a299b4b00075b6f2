"""What Proxmox VE reports, and what follows from it; pure."""
