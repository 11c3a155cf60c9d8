package config

func joinOptions() []Option {
	return []Option{
		{
			Name: "token", Aliases: []string{"t"}, Hidden: true,
			Usage:       "secret by which machines join the cluster",
			DefaultText: "a server makes one and keeps it in server/token below the data directory",
			Bind:        func(c *Config) Value { return stringValue(&c.Join.Token) },
		},
		{
			Name:  "token-file",
			Usage: "read --token from this file",
			Bind:  func(c *Config) Value { return stringValue(&c.Join.TokenFile) },
		},
	}
}

func agentTokenOptions() []Option {
	return []Option{
		{
			Name: "agent-token", Hidden: true,
			Usage:       "secret by which agents only join, and which gives no rights over servers",
			DefaultText: "the server makes one and keeps it in server/agent-token below the data directory",
			Bind:        func(c *Config) Value { return stringValue(&c.Join.AgentToken) },
		},
		{
			Name:  "agent-token-file",
			Usage: "read --agent-token from this file",
			Bind:  func(c *Config) Value { return stringValue(&c.Join.AgentTokenFile) },
		},
	}
}
