"""Rows for each app: what several scenarios put into its databases, one file an app."""
