package forge

import "errors"

// Credentials are what a forge knows the agent by: a token or, on GitHub, an App.
type Credentials struct {
	// Token is an access token.
	Token string
	// AppID, InstallationID and PrivateKey (PEM) are those of a GitHub App.
	AppID, InstallationID int64
	PrivateKey            []byte
	// CA are certificates (PEM) to trust besides the system's.
	CA []byte
}

// CredentialsFromSecret reads credentials from the data of a Secret.
func CredentialsFromSecret(data map[string][]byte, kind Kind) (Credentials, error) {
	return Credentials{}, errors.New("not built yet")
}
