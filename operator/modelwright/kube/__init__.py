"""What any controller needs of Kubernetes, and nothing of what ours decide.

A reconcile pass reads the caches of the reflectors, writes through the client, and is called by the work queue, while
this replica holds the Lease. Time comes from the event loop (`loop.time`, `asyncio.sleep`), so that a test which drives
the loop drives all of it; only the Lease reads real clocks, which can be injected.
"""
