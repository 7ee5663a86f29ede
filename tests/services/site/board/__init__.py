"""A message board on Django, Channels, PostgreSQL and Redis, written for asgiref."""
