package routertrain

// Redaction says what of a query's text a label file keeps.
type Redaction string
