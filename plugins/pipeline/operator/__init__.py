"""The operator that every runtime shares: from Params to a job, from an outcome to an XCom."""
