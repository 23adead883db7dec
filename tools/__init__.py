"""Development commands that write generated files or describe the tree. Nothing else imports them."""
