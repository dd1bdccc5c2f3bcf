"""Scripts measured without a change to them: `lightning-costs run`, and what Lightning calls in them."""
