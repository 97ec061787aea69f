"""What lies on the store and how it is written: objects, logs, postings, documents, recovery."""
