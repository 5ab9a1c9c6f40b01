package forge

import (
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode"

	"github.com/bradleyfalzon/ghinstallation/v2"
)

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

// String keeps secrets out of logs.
func (Credentials) String() string { return "forge.Credentials{…}" }

// GoString keeps secrets out of logs.
func (c Credentials) GoString() string { return c.String() }

// The keys of a Secret with credentials.
const (
	keyToken          = "token"
	keyAppID          = "githubAppID"
	keyInstallationID = "githubAppInstallationID"
	keyPrivateKey     = "githubAppPrivateKey"
	keyCA             = "ca.crt"
)

// CredentialsFromSecret reads credentials from the data of a Secret and checks them: either
// "token" or, on GitHub, the three githubApp… keys; "ca.crt" may be added to both.
func CredentialsFromSecret(data map[string][]byte, kind Kind) (Credentials, error) {
	appKeys := []string{keyAppID, keyInstallationID, keyPrivateKey}
	var app, missing, unknown []string
	for _, key := range appKeys {
		if _, ok := data[key]; ok {
			app = append(app, key)
		} else {
			missing = append(missing, key)
		}
	}
	for key := range data {
		if key != keyToken && key != keyCA && !slices.Contains(appKeys, key) {
			unknown = append(unknown, strconv.Quote(key))
		}
	}
	slices.Sort(unknown)
	_, token := data[keyToken]
	expected := `"` + keyToken + `"`
	if kind == GitHub {
		expected += ` or "` + strings.Join(appKeys, `", "`) + `"`
	}
	expected += `, and "` + keyCA + `" if the certificate is from an authority of your own`
	switch {
	case len(unknown) > 0:
		return Credentials{}, fmt.Errorf("the Secret has the unknown key %s: it may have %s", strings.Join(unknown, ", "), expected)
	case len(app) > 0 && kind != GitHub:
		return Credentials{}, fmt.Errorf("the Secret has %q, but a GitHub App is only known to GitHub and the forge is %s: use %q", app[0], kind, keyToken)
	case len(app) > 0 && token:
		return Credentials{}, fmt.Errorf("the Secret has both %q and %q: log in with a token or as a GitHub App, not both", keyToken, app[0])
	case len(app) > 0 && len(missing) > 0:
		return Credentials{}, fmt.Errorf("the Secret has %q but lacks %q: a GitHub App needs all three", app[0], strings.Join(missing, `", "`))
	case len(app) == 0 && !token:
		return Credentials{}, fmt.Errorf("the Secret has no credentials: it needs %s", expected)
	}

	c := Credentials{Token: strings.TrimSpace(string(data[keyToken])), CA: data[keyCA]}
	if token && c.Token == "" {
		return Credentials{}, fmt.Errorf("%q of the Secret is empty", keyToken)
	}
	if ca, ok := data[keyCA]; ok && len(ca) == 0 {
		return Credentials{}, fmt.Errorf("%q of the Secret is empty: remove the key, or put PEM certificates in", keyCA)
	}
	if len(app) > 0 {
		var err error
		if c.AppID, err = number(data, keyAppID); err != nil {
			return Credentials{}, err
		}
		if c.InstallationID, err = number(data, keyInstallationID); err != nil {
			return Credentials{}, err
		}
		c.PrivateKey = data[keyPrivateKey]
	}
	if err := c.check(kind); err != nil {
		return Credentials{}, err
	}
	return c, nil
}

func number(data map[string][]byte, key string) (int64, error) {
	n, err := strconv.ParseInt(strings.TrimSpace(string(data[key])), 10, 64)
	if err != nil || n <= 0 {
		return 0, fmt.Errorf("%q of the Secret is not a number above 0", key)
	}
	return n, nil
}

func (c Credentials) app() bool {
	return c.AppID != 0 || c.InstallationID != 0 || len(c.PrivateKey) > 0
}

// check says what is wrong with the credentials, without their values.
func (c Credentials) check(kind Kind) error {
	switch {
	case c.app() && c.Token != "":
		return errors.New("there is both a token and a GitHub App to log in with: keep one")
	case c.app() && kind != GitHub:
		return fmt.Errorf("a GitHub App is only known to GitHub, and the forge is %s: use a token", kind)
	case c.app():
		if c.AppID <= 0 || c.InstallationID <= 0 {
			return errors.New("the id of a GitHub App and of its installation must be numbers above 0")
		}
		if _, err := ghinstallation.NewAppsTransport(nil, c.AppID, c.PrivateKey); err != nil {
			return errors.New("the private key of the GitHub App can't be read: it must be an RSA key in PEM form, as GitHub lets one download it")
		}
	case c.Token == "":
		return errors.New("there is no token")
	case strings.ContainsFunc(c.Token, func(r rune) bool { return r > unicode.MaxASCII || unicode.IsSpace(r) || unicode.IsControl(r) }):
		return errors.New("the token has characters that no token has (spaces, line breaks): check how it was put into the Secret")
	}
	if len(c.CA) > 0 && !x509.NewCertPool().AppendCertsFromPEM(c.CA) {
		return errors.New("the certificates to trust (ca.crt) can't be read: they must be in PEM form")
	}
	return nil
}
