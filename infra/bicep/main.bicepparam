// What `azd up` deploys. azd keeps the variables by environment: `azd env set NAME VALUE` (docs/deploy.md lists them).
// Lists and objects are JSON in a variable; the compiler checks them as it checks what is written here.
using 'main.bicep'

param environmentName = readEnvironmentVariable('AZURE_ENV_NAME', 'tollgate')
param location = readEnvironmentVariable('AZURE_LOCATION', 'swedencentral')

// Two regions for failover. No version: Azure's default, upgraded with it. capacity: thousands of tokens per minute.
param accounts = json(readEnvironmentVariable('GATEWAY_ACCOUNTS', 'null')) ?? [
  {
    name: 'sweden'
    region: 'swedencentral'
    deployments: [
      { name: 'gpt-5.4-mini', model: 'gpt-5.4-mini', sku: 'GlobalStandard', capacity: 10 }
    ]
  }
  {
    name: 'virginia'
    region: 'eastus2'
    deployments: [
      { name: 'gpt-5.4-mini', model: 'gpt-5.4-mini', sku: 'GlobalStandard', capacity: 10 }
    ]
  }
]
param existingAccounts = json(readEnvironmentVariable('GATEWAY_EXISTING_ACCOUNTS', '[]'))
param modelAccess = readEnvironmentVariable('GATEWAY_MODEL_ACCESS', 'inference')

// The configuration of the gateway beyond its accounts.
param models = json(readEnvironmentVariable('GATEWAY_MODELS', '{}'))
param limits = json(readEnvironmentVariable('GATEWAY_LIMITS', '{}'))
param timeouts = json(readEnvironmentVariable('GATEWAY_TIMEOUTS', '{}'))
param sections = json(readEnvironmentVariable('GATEWAY_SECTIONS', '{}'))
param exportContainer = readEnvironmentVariable('GATEWAY_EXPORT_CONTAINER', '')

// Who operates it. Not AZURE_PRINCIPAL_ID: azd replaces that with whoever is signed in, a pipeline included.
param operatorPrincipalId = readEnvironmentVariable('GATEWAY_OPERATOR_ID', '')
param operatorPrincipalType = readEnvironmentVariable('GATEWAY_OPERATOR_TYPE', 'User')
param managementKey = readEnvironmentVariable('GATEWAY_MANAGEMENT_KEY', '')
param keyVault = bool(readEnvironmentVariable('GATEWAY_KEY_VAULT', 'false'))

// Scale and updates.
param alwaysReadyInstances = int(readEnvironmentVariable('GATEWAY_ALWAYS_READY', '0'))
param zoneRedundant = bool(readEnvironmentVariable('GATEWAY_ZONE_REDUNDANT', 'false'))
param updateStrategy = readEnvironmentVariable('GATEWAY_UPDATE_STRATEGY', 'RollingUpdate')

// The network. Ranges are separated by commas.
param privateNetwork = bool(readEnvironmentVariable('GATEWAY_PRIVATE_NETWORK', 'false'))
param privateApp = bool(readEnvironmentVariable('GATEWAY_PRIVATE_APP', 'false'))
param allowedIpRanges = filter(split(readEnvironmentVariable('GATEWAY_ALLOWED_IPS', ''), ','), range => !empty(range))
param operatorIpRanges = filter(split(readEnvironmentVariable('GATEWAY_OPERATOR_IPS', ''), ','), range => !empty(range))

// Messages, and what protects the data.
param alertEmail = readEnvironmentVariable('GATEWAY_ALERT_EMAIL', '')
param monthlyBudgetUsd = int(readEnvironmentVariable('GATEWAY_BUDGET_USD', '0'))
param budgetStart = readEnvironmentVariable('GATEWAY_BUDGET_START', '')
param lockState = bool(readEnvironmentVariable('GATEWAY_LOCK_STATE', 'false'))
param purgeProtection = bool(readEnvironmentVariable('GATEWAY_PURGE_PROTECTION', 'false'))
param restoreDeleted = bool(readEnvironmentVariable('GATEWAY_RESTORE_DELETED', 'false'))
