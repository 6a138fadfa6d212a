"""What stands around the user's own code in its pod: data and checkpoint are fetched before it, watched over while it
runs, and what it leaves is published. `modelwright.owncode` is the contract; nothing here needs torch."""
