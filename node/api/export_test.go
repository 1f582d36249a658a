package api

// DialErr is what c makes of an error of connecting.
func DialErr(c *Client, err error) error { return c.dialErr(err) }
