"""The Ray that searches and distributed trainings run on. May import `tasks.vision` and everything below it."""
