"""The routes of the API: each reads what is asked, calls a rule or a service, and returns a shape."""
