"""docker: containers of Docker or Podman, through the API of Docker."""
