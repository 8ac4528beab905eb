"""The service that answers with the champion, and what starts it, finds it and asks it."""
