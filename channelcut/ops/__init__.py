"""What is known of every op, one file a family; `catalogue` imports them all, which fills the table."""
