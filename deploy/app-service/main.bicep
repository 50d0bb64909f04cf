// The gateway's image on App Service (Linux), with an identity and a storage account that exist: docs/deploy.md says how.

@description('Name of the app, a part of its address.')
@minLength(2)
@maxLength(60)
param name string

@description('Azure region.')
param location string = resourceGroup().location

@description('The image, such as contoso.azurecr.io/tollgate:0.1.0. It is pulled with the identity.')
param image string

@description('User-assigned identity of this resource group. It has roles on the registry, the tables and Azure OpenAI.')
param identityName string

@description('Address of the tables: https://ACCOUNT.table.core.windows.net.')
param tableServiceUri string

@description('The configuration: a JSON document, or the address of a blob. It names x-forwarded-for as client_address.')
param configuration string

@description('Key of the management API, at least 32 characters.')
@secure()
@minLength(32)
param managementKey string

@description('Connection string of an Application Insights component. Empty: no telemetry.')
param telemetryConnectionString string = ''

@description('SKU of the plan. P0v3 has one core and 4 GB.')
param sku string = 'P0v3'

@description('Number of instances. They share all limits.')
@minValue(1)
@maxValue(30)
param instances int = 2

@description('IPv4 ranges in CIDR notation that may call. Empty: everybody with a key.')
param allowedIpRanges string[] = []

@description('Subnet for outgoing calls. Empty: none.')
param subnetId string = ''

resource identity 'Microsoft.ManagedIdentity/userAssignedIdentities@2024-11-30' existing = {
  name: identityName
}

resource plan 'Microsoft.Web/serverfarms@2025-03-01' = {
  name: 'plan-${name}'
  location: location
  kind: 'linux'
  sku: {
    name: sku
    capacity: instances
  }
  properties: {
    reserved: true
  }
}

resource app 'Microsoft.Web/sites@2025-03-01' = {
  name: name
  location: location
  kind: 'app,linux,container'
  identity: {
    type: 'UserAssigned'
    userAssignedIdentities: {
      '${identity.id}': {}
    }
  }
  properties: {
    serverFarmId: plan.id
    httpsOnly: true
    clientAffinityEnabled: false
    keyVaultReferenceIdentity: identity.id
    virtualNetworkSubnetId: empty(subnetId) ? null : subnetId
    siteConfig: {
      acrUseManagedIdentityCreds: true
      acrUserManagedIdentityID: identity.properties.clientId
      alwaysOn: true
      ftpsState: 'Disabled'
      healthCheckPath: '/healthz'
      ipSecurityRestrictionsDefaultAction: empty(allowedIpRanges) ? 'Allow' : 'Deny'
      ipSecurityRestrictions: map(allowedIpRanges, (cidr, index) => {
        action: 'Allow'
        ipAddress: cidr
        name: 'range-${index}'
        priority: 100 + index
      })
      linuxFxVersion: 'DOCKER|${image}'
      minTlsVersion: '1.2'
    }
  }
}

// Declared as a whole: settings that are not listed here are removed.
resource appSettings 'Microsoft.Web/sites/config@2025-03-01' = {
  parent: app
  name: 'appsettings'
  properties: {
    APPLICATIONINSIGHTS_AUTHENTICATION_STRING: 'ClientId=${identity.properties.clientId};Authorization=AAD'
    APPLICATIONINSIGHTS_CONNECTION_STRING: telemetryConnectionString
    AZURE_CLIENT_ID: identity.properties.clientId
    GATEWAY_CONFIG: configuration
    GATEWAY_MANAGEMENT_KEY: managementKey
    GATEWAY_STORAGE__clientId: identity.properties.clientId
    GATEWAY_STORAGE__tableServiceUri: tableServiceUri
    WEBSITES_CONTAINER_STOP_TIME_LIMIT: '120'
    WEBSITES_ENABLE_APP_SERVICE_STORAGE: 'false'
    WEBSITES_PORT: '8080'
    WEBSITE_WARMUP_PATH: '/healthz'
  }
}

@description('Address of the gateway.')
output url string = 'https://${app.properties.defaultHostName}'
