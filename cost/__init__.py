"""The cost model: what a month of the service costs on AWS."""
