package storage

// VerifyConsistency verifies the proof that the tree of first equals that of last or is its
// prefix (RFC 6962, section 2.1.2). It is empty where the sizes are equal or first is empty; an
// empty tree precedes every tree. The error is ErrInconsistent.
func VerifyConsistency(first, last Head, proof []Hash) error {
	return verifyPrecedes(first, last, proof)
}
